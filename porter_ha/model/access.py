"""What it takes to reach the API server, as a value that processes of one pod can hand to each other."""

from porter_ha.model.value import Value


class Access(Value, frozen=True):
    """Where the API server is and how to authenticate. Paths are of files readable by all of the pod's processes."""

    host: str
    ca_file: str
    cert_file: str
    key_file: str
    authorization: str
    verify: bool
