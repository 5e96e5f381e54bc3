"""How loggers are set up: levels, handlers, filters, and which are disabled, as one aspect of a
process's state."""

from __future__ import annotations

import logging
import sys
from operator import itemgetter
from typing import Any

_set_up = itemgetter("level", "disabled", "propagate", "handlers", "filters")
_LEVELS = dict(logging._levelToName)  # names that a step adds to them harm nobody


class LoggerStates:
    """Compares the set-up of all loggers with that of the last time, and puts it back.

    A logger that a step made keeps its set-up: the library that it belongs to has set it up when it
    was imported, and would not do so again.
    """

    def __init__(self) -> None:
        self._loggers: dict[logging.Logger, dict[str, Any]] = {}  # grows only
        self._seen = (-1, -1)

    def read(self) -> tuple[Any, ...]:
        """Return the set-up of all loggers that are known since `look`, in that order, to be
        compared with one that was kept. Lists of handlers and filters are the loggers' own: this is
        done after every step."""
        return (
            logging.Logger.manager.disable,
            logging.raiseExceptions,
            logging._loggerClass,  # type: ignore[attr-defined]
            logging._logRecordFactory,  # type: ignore[attr-defined]
            [
                *map(logging._levelToName.get, _LEVELS),
                *map(logging._nameToLevel.get, _LEVELS.values()),
            ],
            [*map(_set_up, self._loggers.values())],
        )

    def keep(self) -> tuple[Any, ...]:
        """Return what `read` returns, with lists that nobody changes."""
        *rest, loggers = self.read()
        return (*rest, [(*flags, [*handlers], [*filters]) for *flags, handlers, filters in loggers])

    def look(self) -> bool:
        """Add the loggers that are new; whether there are any."""
        manager = logging.Logger.manager
        seen = len(manager.loggerDict), len(sys.modules)
        if seen == self._seen:
            return False
        self._seen = seen
        for each in (logging.root, *manager.loggerDict.values()):
            if isinstance(each, logging.Logger):  # no place holder
                self._loggers.setdefault(each, each.__dict__)
        return True

    def put_back(self, kept: tuple[Any, ...]) -> None:
        logging.disable(kept[0])
        logging.raiseExceptions = kept[1]
        logging.setLoggerClass(kept[2])
        logging.setLogRecordFactory(kept[3])
        logging._levelToName.update(zip(_LEVELS, kept[4][: len(_LEVELS)], strict=True))
        logging._nameToLevel.update(zip(_LEVELS.values(), kept[4][len(_LEVELS) :], strict=True))
        for logger, (level, disabled, propagate, handlers, filters) in zip(
            self._loggers, kept[5], strict=True
        ):
            if logger.level != level:
                logger.setLevel(level)
            logger.disabled, logger.propagate = disabled, propagate
            logger.handlers, logger.filters = [*handlers], [*filters]
