"""What people read of an evaluation: the table, the charts, the page, the file of results."""
