"""The invoke tasks. Each reads its options, calls a command, prints the report and exits.

A tasks.py needs one line: ``from aoti_build.tasks import ns``. To add the tasks to others, it calls
``ns.add_collection(aoti_build.tasks.ns, name="aoti")``.

Every option has a default value. invoke makes a parameter without one positional, such as the
directory of `export`. Commands are
imported in the tasks, so that a task loads only what it uses.
"""

from __future__ import annotations

import os
import sys

from invoke import Collection

# invoke turns off the writing of bytecode. Every task would then compile the modules of this
# package again, which takes longer than a build with nothing to do.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from aoti_build.tasks.building import build, export, tune
from aoti_build.tasks.checking import run, verify
from aoti_build.tasks.history import bench_history
from aoti_build.tasks.measuring import bench
from aoti_build.tasks.misspelt import explain_at_exit
from aoti_build.tasks.registry import release_pull, release_push
from aoti_build.tasks.releasing import release, release_diff
from aoti_build.tasks.reporting import report
from aoti_build.tasks.showing import ci_cache, inspect, schema, status, version, why
from aoti_build.tasks.starting import init
from aoti_build.tasks.upkeep import clean, doctor, gc

ns = Collection(
    "aoti",
    init,
    build,
    verify,
    run,
    tune,
    bench,
    bench_history,
    export,
    release,
    release_diff,
    release_push,
    release_pull,
    status,
    why,
    inspect,
    report,
    clean,
    gc,
    doctor,
    ci_cache,
    schema,
    version,
)

explain_at_exit()
