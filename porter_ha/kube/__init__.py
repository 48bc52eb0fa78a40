"""The API server: authentication, raw requests, watches, and the few writes we make."""
