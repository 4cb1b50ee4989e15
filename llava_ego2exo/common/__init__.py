"""What every long run needs: whole files, line stores, JSON, tables, processes."""
