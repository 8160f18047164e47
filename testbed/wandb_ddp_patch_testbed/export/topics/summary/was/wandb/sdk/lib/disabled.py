class SummaryDisabled:
    def __getattr__(self, key):
        return self[key]


class SummaryDisabled:
    def __getattr__(self, key):
        val = self[key]
        if isinstance(val, dict) and not isinstance(val, SummaryDisabled):
            val = SummaryDisabled(val)
            self[key] = val
        return val
