from scaleexp.tracking import track as track
from scaleexp.trial_context import TrialContext as TrialContext
from scaleexp.trial_context import current_trial as current_trial

__version__: str
