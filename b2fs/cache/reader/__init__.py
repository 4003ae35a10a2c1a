"""Reading: streams over immutable contents, with read-ahead, a shared memory budget and the block cache behind it.

`Reader` is the door; the modules inside: `config` (settings and counters), `memory` (the budget and what it holds),
`content` (what is known of one content: pieces in memory, fetches on their way), `fetch` (carries fetches out),
`stream` (one open file), `completion` (the rest of what is read at random), `stock` (whole contents onto the disk),
`reader` (the assembly).
"""

from b2fs.cache.reader.config import ReaderConfig, ReaderStats
from b2fs.cache.reader.reader import Reader
from b2fs.cache.reader.stream import Stream

__all__ = ["Reader", "ReaderConfig", "ReaderStats", "Stream"]
