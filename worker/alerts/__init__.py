"""What people are told, and how it reaches them: alerts out of the outboxes, as mails and as notifications.

=========  ========================================================================================
delivery   one outbox until nothing in it is due: claim, send, settle
mailer     what is due as a mail: to whom, with which links, made and sent
smtp       the way to the mail server, and what its answers mean
notifier   what is due on the channels beside mail
webhook    one of them: a signed POST
letters    what all of them say: from alerts to stories, from stories to groups of one cause
words      the same in the small: times, durations, codes and causes
rendering  the templates, and texts made from them
=========  ========================================================================================
"""
