"""From metrics and items to tables, charts and the report page."""
