"""The cluster in a box: a real control plane, real routers and real kernels in network namespaces of its own."""
