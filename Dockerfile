# One image, two commands: `serve` (the API) and `worker`. It also has `migrate` and `setup`.
FROM python:3.11-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app

WORKDIR /app

# Wheels only, each with its hash: nothing is built, and only packages from the lock file are installed.
COPY requirements-runtime.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
    --requirement requirements-runtime.lock

COPY everhook everhook
COPY cli cli
COPY workflows workflows
COPY activities activities
COPY api api
COPY migrations migrations
COPY sdk/python/everhook_client everhook_client
COPY worker.py ./

RUN python -m compileall -q . \
    && printf '#!/bin/sh\nexec python -m cli "$@"\n' > /usr/local/bin/everhook \
    && chmod 755 /usr/local/bin/everhook \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin everhook

USER 10001

# The API listens on all addresses of the container; the host decides which ports are published.
ENV EVERHOOK_HOST=0.0.0.0 \
    EVERHOOK_PORT=8080
EXPOSE 8080

# For the API: is the process alive? (A restart would not fix a database, so this does not check /readyz.)
# Workers listen on no port: disable it for them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]

ENTRYPOINT ["everhook"]
CMD ["serve"]
