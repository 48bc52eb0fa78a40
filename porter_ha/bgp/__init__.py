"""BGP on the wire: the codec, the packing of routes into UPDATEs, and the speaker that holds the sessions."""
