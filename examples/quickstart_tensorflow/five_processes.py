"""Start the controller, three learners and the driver as five processes, show what they print, and end with them.

Start it with `python five_processes.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from data import load, options

HERE = Path(__file__).parent
ENDING_S = 30.0  # for the others to end by themselves, once the driver is done


class ProcessFailed(Exception):
    pass


async def run(name: str, *command: str) -> None:
    """Run one script to its end and print its lines behind its name; if we are cancelled, end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        HERE / command[0],
        *command[1:],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            print(f"{name:<10} | {line.decode(errors='replace').rstrip()}", flush=True)
        if await process.wait() != 0:
            raise ProcessFailed(f"{name} ended with exit code {process.returncode}")
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def run_all(common: list[str], output: Path, ports: list[str]) -> int:
    """Run all five, which may start in any order, and give an exit code. When one fails, the others are ended.

    With `ports`, the learners listen there.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # on Windows
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    code = 0
    try:
        async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as group:
            for number in range(3):
                listen = ["--listen", ports[number]] if ports else []
                group.create_task(run(f"learner {number}", "learner.py", "-l", str(number), *listen, *common))
            group.create_task(run("controller", "controller.py", *common))
            listen = ["--listen", *ports] if ports else []
            await run("driver", "driver.py", "--output", str(output), *listen, *common)
            patience.reschedule(loop.time() + ENDING_S)
    except* ProcessFailed as failed:
        print(f"{'; '.join(map(str, failed.exceptions))}; the others were ended")
        code = 1
    except* TimeoutError:
        print(f"some did not end within {ENDING_S:g} s after the driver; they were ended")
        code = 1
    return code


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(server.getsockname()[1]) for server in servers]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="default: the current directory")
    parser.add_argument(
        "--listen", action="store_true", help="let the controller dial the learners, on ports of their own"
    )
    parser.set_defaults(port=None)
    arguments = parser.parse_args()
    dataset = load(arguments.dataset)  # once, before five processes try
    port, *ports = free_ports(4 if arguments.listen else 1)
    common = ["--dataset", dataset.name, "--port", str(arguments.port or port)]
    common += ["--rounds", str(arguments.rounds), "--epochs", str(arguments.epochs)]
    if arguments.limit is not None:
        common += ["--limit", str(arguments.limit)]
    try:
        sys.exit(asyncio.run(run_all(common, arguments.output, ports)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


if __name__ == "__main__":
    main()
