"""What a host must have so that compiling, loading and publishing can work; each check names cause
and fix. Asked by `doctor`, and by `build` before it compiles."""
