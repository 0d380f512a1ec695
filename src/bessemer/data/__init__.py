"""Sources -> items -> rendered examples -> packed rows -> exact mixture -> batches."""
