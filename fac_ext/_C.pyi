from typing import TypedDict, type_check_only

@type_check_only
class _BuildInfo(TypedDict):
    version: str
    cuda: str | None
    cuda_architectures: str
    cpu_simd: str

def build_info() -> _BuildInfo: ...
def release_memory() -> None: ...
