"""HTTP/1.1, asked and answered: httptools parses, asyncio carries, and nothing that we do not use comes along.

docs/adr/0020 says why the agent of every node is worth a room for this.
"""
