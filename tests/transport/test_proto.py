"""The generated code is what protos/ says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = Path("metisfl_async/transport/_proto/metisfl_pb2.py")


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    command = ["grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([sys.executable, "-m", *command, str(ROOT / "protos" / NAME.with_name("metisfl.proto"))], check=True)
    for name in (NAME, NAME.with_suffix(".pyi")):
        assert (tmp_path / name).read_text() == (ROOT / "src" / name).read_text(), "run `make proto`"
