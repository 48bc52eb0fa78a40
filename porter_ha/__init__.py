"""Porter HA: EIPs for Kubernetes Services on bare metal, announced to routers over BGP."""

__version__ = "0.1.0"
