"""Tables, comparisons and figures made from records. They can be made on a machine without torch."""
