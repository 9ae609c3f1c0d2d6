# The sandbox: a gateway for development and tests, which sends no SMS.
#
#     docker build -t oca-sms-sandbox . && docker run --rm -p 127.0.0.1:8025:8025 oca-sms-sandbox

FROM python:3.13-slim-trixie AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/oca-sms && /opt/oca-sms/bin/pip install --no-cache-dir ".[cli]"

FROM python:3.13-slim-trixie
COPY --from=build /opt/oca-sms /opt/oca-sms
ENV PATH=/opt/oca-sms/bin:$PATH PYTHONUNBUFFERED=1
USER 65534:65534
EXPOSE 8025
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --start-interval=1s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8025/sandbox/statistics')"]
ENTRYPOINT ["oca-sms"]
CMD ["sandbox", "--host", "0.0.0.0"]
