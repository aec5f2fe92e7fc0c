"""The command line. `training` is this project's own, also where the folder that a command is
started in has another.
"""

from lafite_shifted import use_own

use_own("training")
