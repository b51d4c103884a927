# CPU by default. For GPUs give a CUDA runtime image with Python 3.11 or newer in its package index:
#   docker build --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 -t vchat .
# Then: docker run --rm -it -v "$PWD/data:/data" vchat vchat-prep --help
ARG BASE=debian:bookworm-slim
# hadolint ignore=DL3006
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Versions of system packages follow the base image; the Python side is pinned in constraints.txt.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates g++ git make numactl openssh-client procps python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 vchat
WORKDIR /opt/vchat
RUN chown vchat:vchat /opt/vchat
USER 10001

COPY --chown=vchat:vchat . .
RUN PIP_NO_CACHE_DIR=1 make setup

ENV PATH=/opt/vchat/.venv/bin:$PATH
CMD ["vchat-prep", "--help"]
