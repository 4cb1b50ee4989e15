"""Pages that open from disk: templates in one style, small pictures, drawings in the page's colours."""
