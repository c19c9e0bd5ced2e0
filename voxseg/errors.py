"""The one exception for a user's mistake: what it is about, what is wrong, what to do."""


class UserError(Exception):
    """A mistake that the user can mend, shown as one line without a traceback.

    Args:
        subject: what the message is about, usually a path or a config key.
        problem: what is wrong with it, with the value found.
        remedy: what to do about it.
    """

    def __init__(self, subject: object, problem: str, remedy: str) -> None:
        self.subject = str(subject)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{self.subject}: {problem}; {remedy}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        return type(self), (self.subject, self.problem, self.remedy)
