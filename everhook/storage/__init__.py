"""All SQL. `tables` and `engine`, then one small module of queries a resource."""
