# The demo and the studio in one container:
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t unimed-studio . && docker run -p 7860:7860 -p 8501:8501 -v unimed:/data unimed-studio
# On a machine with an NVIDIA GPU add `--gpus all`, and `-e UNIMED_MODEL=…` for another checkpoint.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 unimed && mkdir /data && chown unimed /data
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=unimed . .
USER unimed

# What is learned says by which code.
ARG REVISION=
ENV UNIMED_REVISION=$REVISION

# Feedback that visitors agree to is kept here, and nothing else outlives the container.
ENV UNIMED_DATA=/data
VOLUME /data
EXPOSE 7860 8501
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/config')"]
STOPSIGNAL SIGTERM
CMD ["python", "app.py", "--host", "0.0.0.0", "--studio"]
