"""The server: connections, dispatch, forwarding, HTTP, and the root where everything is put together."""
