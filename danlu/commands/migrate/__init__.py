"""Old commands to run files: what the scripts of five projects did, in this program's words.

Import from the modules: `danlu.commands.migrate.migrating` is the way in.
"""
