"""The HTTP server of the web application."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from patchcore_plugin.errors import PatchcoreError

from .site import Site

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2f5573"/>'
    '<path stroke="#fff" stroke-width="5" stroke-dasharray="5 1.5" d="M7 9.5h18M7 16h18M7 22.5h18"/>'
    '<path fill="#f2a541" d="M13.5 13.5h5v5h-5z"/></svg>'
)


def serve(
    site: Site, *, host: str, port: int, show: bool, on_start: Callable[[str], object], names: Sequence[str] = ()
) -> None:
    """Serve the page until the process is interrupted.

    Parameters
    ----------
    site
        State that the pages share.
    host, port
        Address to listen on.
    show
        Whether to open a browser.
    on_start
        Function that receives the URL of the page once the server accepts connections.
    names
        Further host names to accept, such as that of a reverse proxy.
    """
    # Imported here because NiceGUI takes seconds, and most errors are found before.
    from nicegui import app, ui
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .middleware import BodyLimit, SameOrigin
    from .pages import register_page

    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    app.add_middleware(BodyLimit, limit=site.limits.upload)
    app.add_middleware(SameOrigin)
    if host in LOOPBACK or names:
        # Rejects DNS rebinding: a foreign domain that resolves to this machine sends its own name as host.
        allowed = [*LOOPBACK, "[::1]", host, *names]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)
    app.include_router(site.routes.router)
    app.on_startup(lambda: on_start(url))
    app.on_shutdown(site.fit_job.cancel)
    # A process that is terminated does not reach the end of the with statement below.
    app.on_shutdown(site.sessions.close)
    register_page(site)
    with site.sessions:
        ui.run(
            host=host,
            port=port,
            title="patchcore",
            reconnect_timeout=20,  # a session survives a short loss of the connection
            language="en-US",
            dark=None,  # follow the system setting
            reload=False,
            show=show,
            show_welcome_message=False,
            tailwind=False,
            favicon=FAVICON,
        )


def find_port(host: str, port: int) -> int:
    """Return `port`, or a free port for 0.

    Raises
    ------
    PatchcoreError
        If the address is unknown or the port is in use.
    """
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(kind[4])
            return int(probe.getsockname()[1])
    except OSError as error:
        raise PatchcoreError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another with --host and --port"
        ) from None
