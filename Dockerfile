# truepair on a CPU, as a user without rights. `make dist` first: the image holds the wheel that it built.
#   docker build -t truepair .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" truepair audit photos.csv --out audit/
FROM python:3.13-slim
COPY constraints.txt dist/*.whl /tmp/truepair/
RUN cd /tmp/truepair \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir --constraint constraints.txt "$(echo truepair-*.whl)[embed,review,search]" \
    && rm -r /tmp/truepair \
    && useradd --create-home truepair
USER truepair
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["truepair"]
CMD ["--help"]
