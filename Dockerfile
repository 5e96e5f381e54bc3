# One image for every part; docker-compose.yml says which command each service runs.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator ./orchestrator
# "examples" is scikit-learn, for the demo. Put what your own steps import in its place.
RUN pip install --no-cache-dir -c constraints.txt ".[examples]"

WORKDIR /app
COPY config ./config
COPY examples ./examples

# Steps are code of users: not as root. The data folder is theirs, so that a volume put there is, too.
RUN useradd --create-home --uid 10001 orchestrator \
    && install -d -o orchestrator -g orchestrator /app/.orchestrator
USER orchestrator

ENTRYPOINT ["orchestrator"]
CMD ["--help"]
