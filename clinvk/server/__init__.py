"""HTTP: routes, handlers and middleware over the service."""
