# One image for every API role of Recto, by its command: `serve`, `serve --role ocr`, `db upgrade`,
# `init`, `check`, ... Servers of models (vLLM) run in their own upstream image (see helm/).
#
#   docker build -t recto --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# `make test-image` executes these steps without a container engine, in a Debian of its own.
# A digest (python:3.12-slim-bookworm@sha256:...) pins the base wholly.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
WORKDIR /build
# pip has an environment of its own, so that the one that is copied below never holds it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/recto
COPY requirements-server.lock ./
RUN /opt/pip/bin/pip --python /opt/recto/bin/python install --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes -r requirements-server.lock
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY model_registry ./model_registry
COPY files_api ./files_api
COPY ocr_api ./ocr_api
# A wheel, not an editable install: cards and routes come to lie inside the package. The lock
# brought what builds it (the group `build` of pyproject.toml), which then goes again.
RUN /opt/pip/bin/pip --python /opt/recto/bin/python wheel --no-cache-dir --no-index --no-deps \
        --no-build-isolation --wheel-dir dist . \
    && /opt/pip/bin/pip --python /opt/recto/bin/python install --no-cache-dir --no-compile \
        --no-index --no-deps dist/recto-*.whl \
    && /opt/pip/bin/pip --python /opt/recto/bin/python uninstall --yes \
        editables hatchling pathspec pluggy tomlkit trove-classifiers \
    && /opt/pip/bin/pip --python /opt/recto/bin/python check
# Bytecode that is never compared with a source's time: nothing can be written at run time, and
# copying between stages may change times. The libraries' own tests take 20 MB.
RUN find /opt/recto/lib -type d -name tests -prune -exec rm -r {} + \
    && python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/recto/lib

FROM ${PYTHON_IMAGE}
# The base brings pip, and its standard library without bytecode: each process, every child that
# draws pages included, would compile what it imports.
RUN stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && rm -rf "$stdlib"/ensurepip "$stdlib"/site-packages/pip* /usr/local/bin/pip* \
    && python3 -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(site|dist)-packages/' "$stdlib" \
    && groupadd --gid 10001 recto \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /data \
        --shell /usr/sbin/nologin recto \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=builder /opt/recto /opt/recto
ENV PATH=/opt/recto/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RECTO_DATA_DIR=/data
# By number: Kubernetes cannot tell whether a name is root.
USER 10001:10001
# Only /data and /tmp are written. No VOLUME: it would leave an unnamed one behind every run.
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["recto", "health"]
# No init: the exec form makes `recto` process 1, so signals reach it, and it waits for every child
# it starts. Only `serve --workers` can leave grandchildren (a worker that is killed); it wants
# `docker run --init`, or one process per container, as in the chart.
ENTRYPOINT ["recto"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
# Last, so that another revision changes no layer.
ARG PYTHON_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="recto" \
      org.opencontainers.image.description="Self-hosted OCR service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
