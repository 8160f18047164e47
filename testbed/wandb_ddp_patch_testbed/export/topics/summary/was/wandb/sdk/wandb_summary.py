class SummaryDict:
    __getattr__ = __getitem__
