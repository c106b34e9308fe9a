# The job, deliver and the gateway: one image, and the command says which. Settings of the job come as flags, or as
# NUDGE_<SETTING>; see docs/operations.md. In ./flows are the flows, nudge.yaml, and templates/ with the messages.
#
#   docker build -t nudge .
#   docker run --rm -v ./flows:/flows:ro nudge check /flows
#   docker run -v ./flows:/flows:ro -v nudge-state:/var/lib/nudge -p 9100:9100 --stop-timeout 90 nudge \
#       run /flows --source kafka://kafka:9092/events --sink kafka://kafka:9092
#   docker run -v ./flows:/flows:ro -e NUDGE_METRICS_PORT=9101 --stop-timeout 30 nudge \
#       deliver --source kafka://kafka:9092 --config /flows/nudge.yaml --ledger redis://redis:6379/0 --port 9101
#   docker run -v ./flows:/flows:ro -e NUDGE_METRICS_PORT=8080 -p 8080:8080 --stop-timeout 30 nudge \
#       gateway --sink kafka://kafka:9092 --config /flows/nudge.yaml --ledger redis://redis:6379/0 --host 0.0.0.0

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cargo gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/nudge
WORKDIR /src
# What it needs changes seldom and takes long, so it comes first, as a layer of its own.
COPY pyproject.toml constraints.txt MANIFEST.in README.md LICENSE ./
COPY dataflow/read/scanner dataflow/read/scanner
RUN mkdir nudge operators connectors state \
    && /opt/nudge/bin/pip install --constraint constraints.txt . \
    && /opt/nudge/bin/pip uninstall --yes nudge
COPY connectors connectors
COPY dataflow dataflow
COPY nudge nudge
COPY operators operators
COPY state state
RUN /opt/nudge/bin/pip install --constraint constraints.txt --no-deps . \
    && /opt/nudge/bin/python -P -c "import dataflow.read._scanner"

FROM python:3.12-slim
COPY --from=build /opt/nudge /opt/nudge
# The state belongs to a user without rights, under a number that Kubernetes can name (runAsUser, fsGroup).
RUN groupadd --gid 10001 nudge \
    && useradd --uid 10001 --gid nudge --no-create-home --home-dir /var/lib/nudge --shell /usr/sbin/nologin nudge \
    && install --directory --owner nudge --group nudge --mode 0700 /var/lib/nudge
# Whoever scrapes or probes stands outside the container.
ENV PATH=/opt/nudge/bin:$PATH \
    NUDGE_STATE=/var/lib/nudge \
    NUDGE_METRICS_HOST=0.0.0.0 \
    NUDGE_METRICS_PORT=9100
USER 10001:10001
WORKDIR /var/lib/nudge
VOLUME /var/lib/nudge
EXPOSE 8080 9100 9101
# 503 means that a process is dead or stuck. This asks NUDGE_METRICS_PORT: so another port of the job belongs there and not
# into a flag; for deliver and the gateway, which have flags alone, it has to be told.
# No proxy is asked, as urllib would where HTTP_PROXY is set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
job = http.client.HTTPConnection('127.0.0.1', int(os.environ['NUDGE_METRICS_PORT']), timeout=4); \
job.request('GET', '/healthz'); \
sys.exit(job.getresponse().status != 200)"]
ENTRYPOINT ["nudge"]
CMD ["--help"]
