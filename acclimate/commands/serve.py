"""``acclimate serve``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_limit, check_settings_file
from acclimate.errors import InputError
from acclimate.serve.settings import ServeSettings

if TYPE_CHECKING:
    from acclimate.serve.model import Wish
    from acclimate.serve.sites import Hosts

# The settings are options without a prefix.
Limits = Annotated[ServeSettings, tyro.conf.arg(name="")]
Shares = Literal["any", "as-source"]


@dataclass(frozen=True)
class Serve:
    """Answer for streams of images over HTTP, adapting to each stream apart from the others.

    Speaks an interface of its own (/docs) and the Open Inference Protocol, listens on this machine
    alone unless --host says otherwise, and saves what each stream has learned in --state-dir.
    SIGTERM and Ctrl-C answer what is in flight and save all; SIGHUP loads the bundle again. Needs
    pip install 'acclimate[serve]'.

    Example: acclimate serve quickstart/bundle

    Example: acclimate serve bundle --state-dir states --token-file tokens.txt --host 0.0.0.0
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle from acclimate align, wrap, train or quickstart."""
    method: str | None = None
    """A name that acclimate methods lists; default: the bundle's."""
    settings: Path | None = None
    """A file that acclimate advise wrote, or one like it: method, changes, batch and guard."""
    guard: Literal["bounded", "shadow", "off"] | None = None
    """Mode of a new stream's guard; default: bounded, or off if the bundle has no calibration."""
    class_shares: Shares = "any"
    """as-source tells the guard that, among any 200 images in a row of a stream, each class is
    about as frequent as among the source images of its calibration; any tells it nothing. Streams
    that were saved with another value begin anew."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of the machine."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    allowed_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further name by which the service may be asked, such as gpu-box; may be repeated. Without
    tokens, it answers to localhost, its addresses and these names alone, so that no web page can
    reach it by a name of its own. With tokens, all names are answered to unless some are given."""
    state_dir: Path | None = None
    """Folder of the streams' states; without one they end with the server."""
    token_file: Path | None = None
    """A file with a token in each line, and behind it the prefix of the streams that it is for, if
    not for all. Without one, whoever reaches the port may use it."""
    tls_cert: Path | None = None
    """Certificate for HTTPS, a PEM file."""
    tls_key: Path | None = None
    """Its key, a PEM file."""
    device: str | None = None
    """cpu or cuda; default: a GPU if there is one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 2GB; default: what the machine has free.
    """
    log: Literal["warnings", "requests"] = "warnings"
    """What is logged, as lines of JSON to the standard error output: warnings alone, or also a line
    for each request. No line holds an image."""
    traces: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Send a span of each request to OpenTelemetry (OTEL_EXPORTER_OTLP_ENDPOINT says where). Needs
    pip install 'acclimate[otel]'."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""
    engine: Literal["here", "ray"] = "here"
    """Where to serve: in this process, or with replicas on a Ray cluster, which need a --state-dir
    on storage that its machines share, and pip install 'acclimate[serve,client,ray]'."""
    ray_address: str | None = None
    """Address of the cluster, such as auto or 10.0.0.1:6379; default: one that runs here, or a new
    one."""
    replicas: int = 2
    """Replicas on the cluster, each in charge of some of the streams."""
    min_replicas: int | None = None
    """Replicas that always run; a further one is started when one of its streams asks. Default:
    all."""
    scale_down_s: float = 600.0
    """Seconds without a request after which a replica beyond --min-replicas stops; its states are
    saved."""
    limits: Limits = ServeSettings()
    """Limits and times."""

    def run(self, console: Console) -> None:
        """Do it."""
        check_limit(self.memory_limit)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("TLS needs both --tls-cert and --tls-key.")
        for option in ("ray_address", "min_replicas"):
            if self.engine == "here" and getattr(self, option) is not None:
                name = f"--{option.replace('_', '-')}"
                raise InputError(f"{name} is for --engine ray; give both or neither.")
        try:
            from acclimate.serve.app import create_app
            from acclimate.serve.observed import log_as_json, observe
            from acclimate.serve.run import listen, run, server_of
        except ImportError as error:
            raise InputError(
                f"{error.name} is missing: pip install 'acclimate[serve]' to serve."
            ) from error
        if self.engine == "ray":
            self._on_ray(console)
            return
        from acclimate.serve.auth import Tokens
        from acclimate.serve.engine import Engine
        from acclimate.serve.service import Service

        def tell(sentence: str) -> None:
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

        log_as_json(requests=self.log == "requests")
        tokens, hosts = Tokens(self.token_file), self._hosts()
        listener = listen(self.host, self.port)
        wish, limits = self._wish()
        engine = Engine(self.bundle, limits, wish, self.state_dir)
        service = Service(engine, tokens, tell, hosts)
        tls = (self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None
        app = create_app(service)
        observe(app, traces=self.traces)
        server = server_of(app, limits, tls)
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        service.introduce(f"{scheme}://{host}:{listener.getsockname()[1]}")
        run(server, service, listener)
        tell("ended; all requests were answered" + service.epilogue())

    def _on_ray(self, console: Console) -> None:
        """Serve with replicas on a Ray cluster."""
        from acclimate.serve.ray_serve import OnRay, run

        if self.state_dir is None:
            raise InputError("--engine ray needs a --state-dir that all machines share.")
        if self.tls_cert is not None:
            raise InputError("--engine ray speaks no TLS; put a proxy before it, such as nginx.")
        if self.traces or self.log != "warnings":
            raise InputError(
                "--log requests and --traces are not for --engine ray; leave them out."
            )
        wish, limits = self._wish()
        what = OnRay(
            self.bundle.resolve(),
            self.state_dir.resolve(),
            wish,
            limits,
            self.token_file and self.token_file.resolve(),
            self.replicas,
            self.min_replicas,
            self.scale_down_s,
            hosts=self._hosts(),
        )

        def tell(sentence: str) -> None:
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

        run(what, self.host, self.port, self.ray_address, tell)

    def _hosts(self) -> "Hosts | None":
        """By which names the service is asked."""
        from acclimate.serve.sites import Hosts

        needed = self.token_file is None or self.allowed_host
        return Hosts(self.host, self.allowed_host) if needed else None

    def _wish(self) -> "tuple[Wish, ServeSettings]":
        """How the bundle is to be served, and the limits."""
        from acclimate.serve.model import Wish

        if self.settings is None:
            return Wish(self.method, None, self.guard, *self._where()), self.limits
        if self.method is not None:
            raise InputError("--settings names the method; leave --method out.")
        from acclimate.advise.settings_file import load

        check_settings_file(self.settings, self.bundle)
        file = load(self.settings)
        guard = self.guard or file.guard
        made = file.variant.method, file.variant.settings
        limits = self.limits
        if limits.batch == ServeSettings.batch:
            limits = replace(limits, batch=file.batch)
        return Wish(*made, guard, *self._where()), limits

    def _where(self) -> tuple[str | None, str | None, Shares]:
        """The rest of a wish: device, limit of memory, and what is known of the streams."""
        return self.device, self.memory_limit, self.class_shares
