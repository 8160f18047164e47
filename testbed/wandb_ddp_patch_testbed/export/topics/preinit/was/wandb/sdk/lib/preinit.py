class PreInitObject:
    pass


def PreInitCallable(  # noqa: N802
    name: str, destination: Any | None = None
) -> Callable:
    def preinit_wrapper(*args: Any, **kwargs: Any) -> Any:
        raise wandb.Error(f"You must call wandb.init() before {name}()")

    preinit_wrapper.__name__ = str(name)
    if destination:
        preinit_wrapper.__wrapped__ = destination  # type: ignore
        preinit_wrapper.__doc__ = destination.__doc__
    return preinit_wrapper


def PreInitCallable(  # noqa: N802
    name: str, destination: Optional[Any] = None
) -> Callable:
    def preinit_wrapper(*args: Any, **kwargs: Any) -> Any:
        raise wandb.Error(f"You must call wandb.init() before {name}()")

    preinit_wrapper.__name__ = str(name)
    if destination:
        preinit_wrapper.__wrapped__ = destination  # type: ignore
        preinit_wrapper.__doc__ = destination.__doc__
    return preinit_wrapper
