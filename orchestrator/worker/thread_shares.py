"""How many threads numeric libraries may use in a step: without a limit every slot would start one
for each core.

| when the library comes       | how it is limited                                      |
|------------------------------|--------------------------------------------------------|
| in the step or in a command  | by environment variables, which it reads when it is    |
|                              | loaded                                                 |
| it was there before the step | by threadpoolctl (BLAS and OpenMP libraries) and       |
|                              | `torch.set_num_threads`                                |

A slot's share is the cores divided by the slots. A step's or pool's `threads` stands in for it, and
caps what the user has set in the environment, which else counts alone. What a step sets itself
holds until its end.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from orchestrator.cores import available_cores
from orchestrator.settings.model import Settings
from orchestrator.worker.child.process_state import adopt_imports

VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS",
)  # fmt: skip
_NAMES = tuple((name, os.fsencode(name)) for name in VARIABLES)
OF_THREADPOOLCTL = "KMP_DUPLICATE_LIB_OK", "True"
"""The variable that threadpoolctl sets when it is imported, here or by scikit-learn: else a step
would see it or not, by what ran before in its process."""
_OF_LIBRARY = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}
_WITH_THREADS = ("numpy", "scipy", "sklearn", "torch", "faiss", "lightgbm", "xgboost", "cv2")
"""Modules with BLAS or OpenMP libraries: unless one of them is loaded nobody looks for such
libraries, which takes a millisecond."""

_data: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
_share = 1  # of the cores, for one slot
_set_by_us: dict[str, bytes] = {}  # variable -> value
_of_start: dict[str, int] = {}  # variable -> what the user had set when the worker began
_controller: Any = None
_seen = -1  # loaded modules at the last look for libraries


def share_cores(slots: int) -> None:
    """Remember how many slots share the cores, and what the user has set; once, before any step and
    any child."""
    global _share
    _share = max(1, available_cores() // max(1, slots))
    for name in VARIABLES:
        if (found := _number(os.environ.get(name))) is not None:
            _of_start[name] = found
    os.environ.setdefault(*OF_THREADPOOLCTL)
    limit_threads(None)


def limit_threads(threads: int | None) -> None:
    """Let numeric libraries use that many threads from now on, None for the slot's share; not below
    what is set.

    Only where the main thread runs the steps: in a pool of threads they share the libraries, and
    have the share.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if _set_variables(threads or _share, is_cap=threads is not None):
        adopt_imports(are_of_user=False)  # the variables are ours, not a change of the step's
    if any(name in sys.modules for name in _WITH_THREADS):
        _limit_libraries(threads)


def threads_of(settings: Settings, pool: str | None) -> int | None:
    """Return what a pool's setting `threads` says."""
    known = settings.pools.get(pool or settings.default_pool)
    return known.threads if known else None


def _set_variables(share: int, *, is_cap: bool) -> bool:
    """Set the variables that are not the user's; whether any has changed."""
    has_changed = False
    for name, key in _NAMES:
        now, ours = _data.get(key), _set_by_us.get(name)
        of_start = _of_start.get(name)
        if now is not None and now != ours and _number(os.fsdecode(now)) != of_start:
            continue  # set by a module of the user's when it was imported
        wanted = share if of_start is None else min(of_start, share) if is_cap else of_start
        value = str(wanted).encode()
        if now != value:
            os.environ[name] = str(wanted)
            has_changed = True
        _set_by_us[name] = value
    return has_changed


def _limit_libraries(cap: int | None) -> None:
    """Set what is loaded to what the environment says, which those that are loaded later go by."""
    for library in _libraries():
        wanted = _wanted(_OF_LIBRARY.get(library.internal_api, "OMP_NUM_THREADS"), cap)
        if wanted is not None and library.num_threads != wanted:
            library.set_num_threads(wanted)
    torch = sys.modules.get("torch")
    wanted = _wanted("OMP_NUM_THREADS", cap)
    is_whole = torch is not None and hasattr(torch, "set_num_threads")  # else it is half imported
    if torch is not None and is_whole and wanted is not None and torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def _wanted(variable: str, cap: int | None) -> int | None:
    found = _number(os.environ.get(variable)) or _number(os.environ.get("OMP_NUM_THREADS"))
    return found if found is None or cap is None else min(found, cap)


def _libraries() -> Iterator[Any]:
    """Return threadpoolctl's controllers of what is loaded; looked for anew when modules were
    loaded since."""
    global _controller, _seen
    if len(sys.modules) != _seen:
        from threadpoolctl import ThreadpoolController

        _controller = ThreadpoolController()
        _seen = len(sys.modules)
    yield from _controller.lib_controllers


def _number(text: str | None) -> int | None:
    """Return the number of a variable; of OpenMP's list for nested regions ("4,2") the first
    one."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None
