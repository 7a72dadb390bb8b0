"""Everything that can be set, with its unit and bounds; made once, passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from obdsup.errors import ConfigError
from obdsup.state.program import program_command

__all__ = ["PROVIDER_NAMES", "Settings"]

PROVIDER_NAMES = ("auto", "tcmu", "fuse", "load")


@dataclass(frozen=True, slots=True)
class Settings:
    """The supervisor's settings.

    Raises:
        ConfigError: a value out of its bounds.
    """

    run_dir: Path = Path("/run/obdsup")
    state_dir: Path = Path("/var/lib/obdsup")
    provider: str = "auto"
    standbys: int = 1  # warm standbys kept ready, 0 to 64
    prewarm_max: int = 256  # images a standby holds open
    foreign_per_worker: int = 1  # devices others made in configfs that share a worker, 1 to 64
    worker_command: tuple[str, ...] = field(
        default_factory=partial(program_command, "obdsup.worker")
    )
    image_command: tuple[str, ...] = field(default_factory=partial(program_command, "obdsup.cli"))
    hello_timeout_s: float = 2.0  # a living worker that does not answer by then is fenced
    start_timeout_s: float = 30.0  # from spawn to the first hello
    pinned_patience_s: float = 5.0  # for a standby of a device's release, before ours takes over
    serve_timeout_s: float = 30.0  # opening an image and recovering
    drain_timeout_s: float = 10.0  # what is in flight at a hand-over
    kill_timeout_s: float = 30.0  # a killed process in uninterruptible sleep
    checkpoint_interval_s: float = 1.0
    stop_timeout_s: float = 10.0  # from SIGTERM to the end, whatever is stuck
    devices_per_worker: int = 1  # of a device for which nothing else was chosen, 1 to 64
    quarantine_deaths: int = 20  # workers in a row that completed nothing; 0: no quarantine
    quarantine_window_s: float = 60.0  # more than 600 deaths in this time are too many as well
    poison_after: int = 3  # deaths of workers a command may cause, 0 to 1000; 0: any number
    hang_limit_s: float = 5.0  # work pending and nothing moves: 0.5 to 3600; 0: never judged
    event_listeners: tuple[str, ...] = ()  # EVENTS=COMMAND each
    metrics: str = ""  # where metrics can be had: unix:PATH or a loopback address; "": nowhere

    def __post_init__(self) -> None:
        if self.provider not in PROVIDER_NAMES:
            raise ConfigError(
                f"provider {self.provider!r} is unknown", hint=f"one of {', '.join(PROVIDER_NAMES)}"
            )
        if not 0 <= self.standbys <= 64:
            raise ConfigError(f"standbys is {self.standbys}, must be 0 to 64")
        if not 0 <= self.prewarm_max <= 4096:
            raise ConfigError(f"prewarm_max is {self.prewarm_max}, must be 0 to 4096")
        if self.hang_limit_s and not 0.5 <= self.hang_limit_s <= 3600:
            raise ConfigError(
                f"hang limit is {self.hang_limit_s} s, must be 0.5 to 3600",
                hint="0 turns the hang watch off",
            )
        if not 1 <= self.devices_per_worker <= 64:
            raise ConfigError(f"devices_per_worker is {self.devices_per_worker}, must be 1 to 64")
        if not 0 <= self.poison_after <= 1000:
            raise ConfigError(f"poison_after is {self.poison_after}, must be 0 to 1000")
        if not 0 <= self.quarantine_deaths <= 100_000 or self.quarantine_window_s <= 0:
            raise ConfigError(
                f"quarantine of {self.quarantine_deaths} deaths in {self.quarantine_window_s} s is"
                " not usable",
                hint="0 to 100000 deaths, more than 0 seconds",
            )
        if not 1 <= self.foreign_per_worker <= 64:
            raise ConfigError(f"foreign_per_worker is {self.foreign_per_worker}, must be 1 to 64")

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "obdsup.sock"

    @property
    def supervisorctl_socket(self) -> Path:
        return self.run_dir / "supervisor.sock"

    @property
    def workers_dir(self) -> Path:
        return self.run_dir / "workers"

    @property
    def log_dir(self) -> Path:
        return self.run_dir / "logs"

    def device_run_dir(self, name: str) -> Path:
        return self.run_dir / "devices" / name

    def device_state_dir(self, name: str) -> Path:
        return self.state_dir / "devices" / name

    def journal_path(self, name: str) -> Path:
        return self.device_run_dir(name) / "inflight"

    @property
    def index_cache_dir(self) -> Path:
        """Merged indexes of large images, so that workers open them faster; may be deleted."""
        return self.state_dir / "index-cache"

    def make_directories(self) -> None:
        """Creates what must be there, readable by the owner only.

        Raises:
            ConfigError: a directory can not be made.
        """
        for path in (
            self.run_dir,
            self.state_dir,
            self.workers_dir,
            self.log_dir,
            self.run_dir / "devices",
            self.run_dir / "rings",
            self.state_dir / "devices",
            self.index_cache_dir,
        ):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"directory {path} can not be made: {error.strerror}",
                    hint="choose others with --run-dir and --state-dir",
                ) from error
