"""What an object carries for whoever fetches it by HTTP, besides its type.  Loads nothing."""

from __future__ import annotations

#: Among an object's metadata these headers go by their names; the capitals keep them apart from metadata so called.
CONTENT_HEADERS = ("Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Expires")
