# One image for every process; docker-compose.yml says which of them a container runs.

FROM python:3.11.11-slim-bookworm AS build
# Without pip inside, so that none is copied into the second stage.
RUN python -m venv --without-pip /venv
COPY requirements.txt /
RUN pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --requirement /requirements.txt \
    && /venv/bin/python -m compileall -q /venv

FROM python:3.11.11-slim-bookworm
RUN pip uninstall --yes --root-user-action=ignore pip setuptools wheel \
    && groupadd --gid 10001 monitor \
    && useradd --uid 10001 --gid monitor --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin monitor \
    # A new volume that is mounted here takes over the owner.
    && install --directory --owner monitor --group monitor --mode 0700 /data
COPY --from=build /venv /venv
WORKDIR /app
COPY api api
COPY shared shared
COPY worker worker
# The project comes first: rq-dashboard installs a top-level package named `tests`.
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data
USER monitor
VOLUME /data
CMD ["gunicorn", "--config", "python:api.server", "api:create_app()"]
