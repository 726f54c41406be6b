"""Small trained runs that come with the package."""
