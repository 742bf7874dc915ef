from contextlib import AbstractContextManager
from typing import Any

def config_context(**options: Any) -> AbstractContextManager[None]: ...
