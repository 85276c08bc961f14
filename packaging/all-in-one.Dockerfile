# To try it, Postgres with the extension and the sidecar in one image, made of the two that compose.yaml builds:
#
#     docker compose build
#     tests/scripts/build-app
#     docker build -f packaging/all-in-one.Dockerfile -t livestore-sync .
#     docker run -p 127.0.0.1:8787:8787 -p 127.0.0.1:8080:8080 -v livestore:/data livestore-sync
#
# The todo app is at http://localhost:8080.
# In production they are apart.
ARG PG_MAJOR=15
ARG POSTGRES=livestore-postgres:${PG_MAJOR}
ARG SIDECAR=livestore-sidecar

FROM ${SIDECAR} AS sidecar

FROM ${POSTGRES}
ARG PG_MAJOR
LABEL org.opencontainers.image.title="livestore-sync" \
      org.opencontainers.image.description="Postgres with the extension livestore_sync, and the sidecar, to try them"
COPY --from=sidecar /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=sidecar /usr/local/bin/livestore-sidecar /usr/local/bin/
COPY --from=sidecar /usr/share/doc/livestore-sidecar /usr/share/doc/livestore-sidecar
COPY target/app /usr/share/livestore-sync/app
USER root
# A volume begins with the owner of the folder that it is mounted on.
RUN install -d -o postgres -g postgres -m 700 /data
USER postgres
# In its container it cannot listen on the machine's loopback, so it is told that serving without authentication is meant. -p says from
# where it can be reached. Of web pages, only those of the machine itself may talk to it, and not those whose name resolves to it.
ENV LIVESTORE_DATA=/data LIVESTORE_LISTEN=0.0.0.0:8787 LIVESTORE_INSECURE_NO_AUTH=true LIVESTORE_CORS_ORIGINS=local \
    LIVESTORE_ALLOWED_HOSTS=localhost LIVESTORE_DEMO=true \
    LIVESTORE_APP=/usr/share/livestore-sync/app LIVESTORE_APP_LISTEN=0.0.0.0:8080 \
    LIVESTORE_POSTGRES_BIN=/usr/lib/postgresql/${PG_MAJOR}/bin
VOLUME /data
EXPOSE 8787 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["/usr/local/bin/livestore-sidecar", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/livestore-sidecar"]
CMD ["dev"]
