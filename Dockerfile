# The one image of managers and agents. BASE is any Debian-like image with Python 3.11 or newer.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements-image.lock ./
RUN python3 -m venv /opt/porter-ha \
 && /opt/porter-ha/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY porter_ha porter_ha
COPY workers workers
COPY scripts/notices.py scripts/
RUN /opt/porter-ha/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/porter-ha/bin/pip uninstall --quiet --yes pip setuptools \
 && /opt/porter-ha/bin/python scripts/notices.py >/opt/porter-ha/THIRD-PARTY-NOTICES \
 && find /opt/porter-ha -name tests -type d -prune -exec rm -r {} + \
 && cp LICENSE /opt/porter-ha/

FROM ${BASE}
# libnftables: the guard and the redirected BGP port, in process. ip: the policy rule, once at start.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnftables1 iproute2 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
COPY --from=build /opt/porter-ha /opt/porter-ha
ENV PATH=/opt/porter-ha/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    PYTHONUNBUFFERED=1
# Which capabilities it needs beside being root is the chart's to say: NET_ADMIN, NET_RAW, NET_BIND_SERVICE.
ENTRYPOINT ["porter-ha"]
