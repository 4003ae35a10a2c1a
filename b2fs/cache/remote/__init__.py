"""What the bucket holds, as last seen.

The modules: `listing` (one directory in little memory), `view` (all directories, questions and our own changes), `walk`
(flat listings that fill many directories at once), `known` (attributes of objects, which listings do not carry).
"""

from b2fs.cache.remote.listing import Found, Listing
from b2fs.cache.remote.view import RemoteConfig, RemoteView

__all__ = ["Found", "Listing", "RemoteConfig", "RemoteView"]
