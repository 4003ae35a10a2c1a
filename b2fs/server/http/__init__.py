"""A thin HTTP/1.1 front on trio that runs an ASGI application; hypercorn can take its place (see run)."""
