# Aforo's three commands, for nobody in particular: no root, no shell needed, nothing to write.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag aforo:0.1.0 .
#
# Versions are those of constraints.txt. Pin the base for a release, by a digest:
# --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=otel
# The same sources make the same bytes: files bear this time, and bytecode a hash instead of one.
ARG SOURCE_DATE_EPOCH=1767225600
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
WORKDIR /src
# What installs and builds stays here: no pip in the image.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/aforo
COPY constraints.txt pyproject.toml ./
RUN /opt/build/bin/pip install --constraint constraints.txt hatchling
# Dependencies first: they change less often than the sources.
RUN /opt/build/bin/python3 -c "import tomllib; \
p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *(r for e in '${EXTRAS}'.split() for r in p['optional-dependencies'][e]), sep='\n')" \
    > requirements.txt \
 && /opt/build/bin/pip --python /opt/aforo/bin/python3 install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY proto proto
COPY aforo_authz aforo_authz
COPY aforo_meter aforo_meter
COPY aforo_admin aforo_admin
RUN /opt/build/bin/hatchling build --target wheel --directory /dist \
 && /opt/build/bin/pip --python /opt/aforo/bin/python3 install --no-deps --no-index /dist/*.whl \
 && /opt/aforo/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/aforo/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aforo" \
      org.opencontainers.image.description="A financial co-processor for Envoy: decides, meters and rates every API request." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/aforo /opt/aforo
ENV PATH=/opt/aforo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# By number: Kubernetes can't tell of a name whether it is root's.
USER 65532:65532
WORKDIR /tmp
# aforo-meter ship, aforo-admin sync, …: named instead. No shell stands before them, so they get SIGTERM.
CMD ["aforo-authz", "serve"]
