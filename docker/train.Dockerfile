# Pretraining and adaptation, on CPU or GPU: torch's own packages carry CUDA, the host needs the driver and the
# NVIDIA container toolkit. Not built yet: it was written where no container engine was running.
#   docker build -f docker/train.Dockerfile -t marlin-train .
#   docker run --gpus all --shm-size 8g -v DATA:/data marlin-train pretrain /data/faces --run /data/run
FROM python:3.11-slim AS packages
RUN python -m venv /opt/marlin
COPY requirements.lock .
RUN /opt/marlin/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.lock

FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/marlin /opt/marlin
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY infra infra
COPY pipeline pipeline
COPY model model
COPY flows flows
RUN /opt/marlin/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --create-home --uid 10001 marlin \
    && install --directory --owner marlin /data
ENV PATH=/opt/marlin/bin:$PATH PYTHONUNBUFFERED=1
USER marlin
WORKDIR /data
ENTRYPOINT ["marlin"]
