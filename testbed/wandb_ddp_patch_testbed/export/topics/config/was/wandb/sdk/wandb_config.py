class Config:  # from 0.13 on
    def __getattr__(self, key):
        try:
            return self.__getitem__(key)
        except KeyError as ke:
            raise AttributeError(
                f"{self.__class__!r} object has no attribute {key!r}"
            ) from ke


class Config:  # to 0.12
    def __getattr__(self, key):
        return self.__getitem__(key)


class Config:  # to 0.10
    __getattr__ = __getitem__
