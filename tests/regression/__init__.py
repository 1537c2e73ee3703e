"""PostgreSQL's own regression database, backed up and restored in every way: `make regress`."""
